"""``qvirt net doctor``: a probe plugged into a network says what works and what does not."""
