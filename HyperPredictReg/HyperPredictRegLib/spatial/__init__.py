"""Space: geometry, images, labels, points and transforms, in LPS mm, and how files of them are read."""
