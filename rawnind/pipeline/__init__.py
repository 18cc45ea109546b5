"""Runs the job on Ray: driver, Ray Data graph, workers."""
