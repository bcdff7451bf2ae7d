"""Any auto-encoder behind one face: ours, those of diffusers, and a user's own."""
