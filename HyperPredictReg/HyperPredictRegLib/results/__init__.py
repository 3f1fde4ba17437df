"""What is asked for, what was predicted, what came out, and the folder that holds it."""
