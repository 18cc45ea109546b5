"""Scenes over a Ray cluster: workers, the graph, the bridge, and what a person sees of them."""
