#compdef fleet-agent
# Completion of fleet-agent for zsh.
_arguments \
	'1:command:((run\:"work until it is stopped" join\:"make this device one of a fleet" check\:"say what is wrong" status\:"show what runs here and why" logs\:"print what the containers wrote last" hold\:"change nothing for a while" version\:"print the version"))' \
	'--config[configuration]:file:_files' \
	'--tail[lines of each container]:lines' \
	'*--url[broker]:URL' \
	'*--trusted-key[public key of the operator]:key' \
	'--ca[certificates to trust at the broker]:base64' \
	'--device-id[device that the token is for]:id' \
	'--help[help]'
