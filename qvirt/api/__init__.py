"""What each public call means: its flags, checks, answers and events. Knows nothing of the wire."""
