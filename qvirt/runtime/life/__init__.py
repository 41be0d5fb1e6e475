"""A run from its first step to its last: started, launched, confined, stopped, cleared up."""
