"""What `ladder` is made of: its settings, its processes, its estimates and its report."""
