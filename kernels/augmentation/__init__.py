"""Random transformations of images and labels inside the step."""
