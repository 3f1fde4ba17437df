"""From images as they were read to what is registered: foreground, intensities, working grid."""

VERSION = "1"
"""Changes whenever foreground, intensities or working grid come out otherwise; a predictor is bound to it."""
