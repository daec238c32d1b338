"""What is probably wrong in annotations, judged by a detector's detections."""
