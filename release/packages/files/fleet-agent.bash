# Completion of fleet-agent for bash.
_fleet_agent() {
	local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]}
	case $before in
	--config) COMPREPLY=($(compgen -f -- "$word")) ;;
	--url | --trusted-key | --ca | --device-id) COMPREPLY=() ;;
	*)
		if [[ $word == -* && " ${COMP_WORDS[*]} " == *" join "* ]]; then
			COMPREPLY=($(compgen -W "--url --trusted-key --ca --device-id --config --help" -- "$word"))
		elif [[ $word == -* ]]; then
			COMPREPLY=($(compgen -W "--config --help" -- "$word"))
		elif [[ $COMP_CWORD -eq 1 ]]; then
			COMPREPLY=($(compgen -W "run join check status version help" -- "$word"))
		fi
		;;
	esac
}
complete -F _fleet_agent fleet-agent
