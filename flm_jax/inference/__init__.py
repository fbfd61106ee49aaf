"""From images and trained weights to landmarks."""
