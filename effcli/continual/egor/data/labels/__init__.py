"""Label files of annotation tools: COCO, YOLO and Pascal VOC, in folders, tars and single files."""
