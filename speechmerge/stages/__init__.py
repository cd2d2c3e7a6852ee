"""One module per verb: HELP, add_arguments(parser), run(args). Heavy imports belong inside run, so that --help is instant."""
