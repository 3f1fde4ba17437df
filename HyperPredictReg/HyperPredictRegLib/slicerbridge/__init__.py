"""SimpleITK images, transforms and label maps to and from MRML nodes, scenes and slice pictures: the room next to Slicer.

The only package here that imports `slicer` and `vtk`. It runs inside 3D Slicer 5.12 or newer, and outside of it on the
`slicer-core` wheel. Scenes are passed in, never looked up. Outside of this room space is LPS; on nodes it is RAS.
"""
