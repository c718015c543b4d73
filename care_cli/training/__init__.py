"""Training: one visible loop, losses as plain functions, and Ultralytics' trainer for detectors."""
