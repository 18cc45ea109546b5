"""What a person looks at: the page of an output folder, and pictures of its scenes, pairs and crops."""
