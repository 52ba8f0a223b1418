# Completion of fleet-agent for fish.
complete -c fleet-agent -f
complete -c fleet-agent -n __fish_use_subcommand -a run -d "work until it is stopped"
complete -c fleet-agent -n __fish_use_subcommand -a join -d "make this device one of a fleet"
complete -c fleet-agent -n __fish_use_subcommand -a check -d "say what is wrong"
complete -c fleet-agent -n __fish_use_subcommand -a status -d "show what runs here and why"
complete -c fleet-agent -n __fish_use_subcommand -a version -d "print the version"
complete -c fleet-agent -l config -r -F -d "configuration"
complete -c fleet-agent -n "__fish_seen_subcommand_from join" -l url -x -d "broker"
complete -c fleet-agent -n "__fish_seen_subcommand_from join" -l trusted-key -x -d "public key of the operator"
complete -c fleet-agent -n "__fish_seen_subcommand_from join" -l ca -x -d "certificates to trust at the broker"
complete -c fleet-agent -n "__fish_seen_subcommand_from join" -l device-id -x -d "device that the token is for"
