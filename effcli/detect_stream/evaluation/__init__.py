"""How good boxes are: KITTI average precision, streaming average precision, and the tables of both."""
