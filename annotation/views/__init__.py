"""The pages of annotation, one file per noun."""
