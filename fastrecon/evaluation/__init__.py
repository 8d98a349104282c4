"""Metrics and the validation that training reports."""

from .metrics import psnr, ssim
from .validation import HeldOut, Scores, Validation, validate

__all__ = ["HeldOut", "Scores", "Validation", "psnr", "ssim", "validate"]
