"""How good is a model? Bounds on log p(x), what the latents say, and simple yardsticks, as functions of model and images."""
