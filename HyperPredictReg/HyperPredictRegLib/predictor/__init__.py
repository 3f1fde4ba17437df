"""The predictor: predicts Dice and folding of a registration for every λ, from the aligned pair and cheap probes."""
