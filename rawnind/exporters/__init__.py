"""Converts an output folder to the RawNIND research code's file formats, and checks such an export."""
