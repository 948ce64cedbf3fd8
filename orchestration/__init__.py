"""What runs where: the command line, recipes, the Ray driver, the coordinator and tracking."""
