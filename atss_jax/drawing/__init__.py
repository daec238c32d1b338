"""Images of data, assignment, detections and runs, drawn by OpenCV."""
