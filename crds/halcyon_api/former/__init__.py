"""Fields of v1alpha1 that have moved. The schema, the reading and the rules of their former places follow from one table."""
