"""G3DR's protocol: scenes from pictures with depth, or from nothing (Tables S1 and S2)."""
