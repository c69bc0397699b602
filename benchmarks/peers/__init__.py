"""What users would pick instead of tfgen, trained on the same data for the same minutes."""
