"""What happens before a predictor ships: training pairs, sweeps over hyperparameters, evaluation."""
