"""What a guest may use, and how much of it: read and changed, now and in the definition."""
