"""What several routes of the ladder share."""
