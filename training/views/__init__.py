"""The pages of training, one file per noun."""
