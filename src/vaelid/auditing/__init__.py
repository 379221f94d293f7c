"""Statistical tests of any part: does its sampler agree with its density? ``audit`` is the entry point, ``TESTS`` the table."""
