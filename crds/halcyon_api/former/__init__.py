"""Fields of v1alpha1 that have moved: one table, from which come the schema, the reading and the rules of their former places."""
