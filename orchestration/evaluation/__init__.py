"""What runs generate, judged next to real clips: once (evaluate) and while training goes on (course, by an examiner).

prompts -> network -> workers/evaluation -> result -> page (charts), plots, command (table, MLflow)
"""
