"""A fake of pycuda: as much of it as mla-edge uses, on the fake GPU of ``fake_machine``."""
