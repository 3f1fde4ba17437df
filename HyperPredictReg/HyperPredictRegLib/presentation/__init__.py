"""What a panel shows, as plain values: a state in, a view out. No Qt, no Slicer, no figures."""
