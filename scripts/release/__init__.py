"""What is run before a release: checks of the bundle and the dependencies, the tutorial, the shipped weights."""
