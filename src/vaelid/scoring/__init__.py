"""How good are the images that a model makes: scores of features, each beside real data and a trivial model on the same scale."""
