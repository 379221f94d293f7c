"""How good are the images that a model makes: scores of features, each beside real data and independent pixels on one scale."""
