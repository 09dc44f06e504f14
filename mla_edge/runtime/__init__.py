"""On the device: capture, infer, route, decide."""
