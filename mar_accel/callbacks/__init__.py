"""Lightning callbacks: what happens while images are sampled."""
