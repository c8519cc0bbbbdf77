"""Calibrations of a pair of cameras in the forms that rigs and data sets have; one reader per form."""
