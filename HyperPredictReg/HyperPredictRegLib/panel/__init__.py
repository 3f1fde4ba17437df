"""The panel in Slicer, section by section. Needs Qt and the application; all else is in the rooms below."""
