"""Finds the parts of a pair where the scene changed, beyond what noise explains."""
