"""The update rules of ``spec.optimizer``: one class with the settings of a rule, one file a rule or close family."""
