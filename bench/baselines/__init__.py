"""Published rendering algorithms written the plain way, to be compared against."""
