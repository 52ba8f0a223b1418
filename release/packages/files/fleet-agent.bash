# Completion of fleet-agent for bash.
_fleet_agent() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	case $before in
	--config) COMPREPLY=($(compgen -f -- "$word")) ;;
	--url | --trusted-key | --ca | --device-id | --tail) COMPREPLY=() ;;
	hold) COMPREPLY=($(compgen -W "30m 2h 12h off" -- "$word")) ;;
	*)
		if [[ $word == -* && " ${COMP_WORDS[*]} " == *" join "* ]]; then
			COMPREPLY=($(compgen -W "--url --trusted-key --ca --device-id --config --help" -- "$word"))
		elif [[ $word == -* && " ${COMP_WORDS[*]} " == *" logs "* ]]; then
			COMPREPLY=($(compgen -W "--tail --config --help" -- "$word"))
		elif [[ $word == -* ]]; then
			COMPREPLY=($(compgen -W "--config --help" -- "$word"))
		elif [[ $COMP_CWORD -eq 1 ]]; then
			COMPREPLY=($(compgen -W "run join check status logs hold version help" -- "$word"))
		fi
		;;
	esac
}
complete -F _fleet_agent fleet-agent
