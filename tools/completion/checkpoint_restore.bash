# SPDX-License-Identifier: MIT
#
# Completion for bash of crrun, crckpt, crrestore, crinspect, crtop, crstore and crstored. Options,
# their values and commands are read from each program's --help, so that they are never out of date.

# The words behind crstore: a command, then a session of this node, then a directory.
_crstore_words() {
  local help=$1 word=$2 socket='' commands at arguments=0
  commands=$(sed -n 's/^  \([a-z]\{2,\}\)\(  *[A-Z][A-Z]*\)*   *[^ ].*/\1/p' <<<"$help")
  for ((at = 1; at < COMP_CWORD; at++)); do
    case ${COMP_WORDS[at]} in
      --socket) socket=${COMP_WORDS[++at]} ;;
      --sequence | --timeout) ((++at)) ;;
      -*) ;;
      *) ((++arguments)) ;;
    esac
  done
  # shellcheck disable=SC2207  # words without blanks
  case $arguments in
    0) COMPREPLY=($(compgen -W "$commands" -- "$word")) ;;
    1) COMPREPLY=($(compgen -W "$("$tool" ${socket:+--socket "$socket"} --timeout 2 status 2>/dev/null |
      sed -n 's/^session \([^ ]*\) (.*/\1/p')" -- "$word")) ;;
    *) COMPREPLY=($(compgen -d -- "$word")) ;;
  esac
}

_checkpoint_restore() {
  local tool=$1 word=$2 before=$3 help name values
  help=$("$tool" --help 2>/dev/null) || return
  COMPREPLY=()
  # --option=value: the shell splits at =.
  name='' values=$word
  if [ "$before" = = ] && [ "$COMP_CWORD" -ge 2 ]; then
    name=${COMP_WORDS[COMP_CWORD - 2]}
  elif [ "$word" = = ]; then
    name=$before values=''
  fi
  if [ -n "$name" ]; then
    # shellcheck disable=SC2207  # words without blanks
    COMPREPLY=($(compgen -W "$(sed -n "s/^ *$name=\([a-z|-]*\).*/\1/p" <<<"$help" | tr '|' ' ')" -- "$values"))
    return
  fi
  case $word in
    -*)
      # shellcheck disable=SC2207
      COMPREPLY=($(compgen -W "$(grep -oE -- '^ +(-[a-zA-Z], )?--[a-z-]+=?|^ +-[a-zA-Z]|, --[a-z-]+' <<<"$help" |
        grep -oE -- '-[a-zA-Z-]+=?')" -- "$word"))
      [ "${COMPREPLY[0]: -1}" != = ] || compopt -o nospace 2>/dev/null
      return
      ;;
  esac
  case ${tool##*/}:$before in
    crstore:--sequence | crstore:--timeout) return ;;
    crstore:--socket | crstored:--* | crstored:-c)
      # shellcheck disable=SC2207
      COMPREPLY=($(compgen -f -- "$word"))
      return
      ;;
    crstored:*) return ;;
    crstore:*)
      _crstore_words "$help" "$word"
      return
      ;;
  esac
  if [ "${tool##*/}" = crrun ]; then
    case $before in
      -d | --dir) ;;
      *)
        # shellcheck disable=SC2207
        COMPREPLY=($(compgen -c -- "$word") $(compgen -f -- "$word"))
        return
        ;;
    esac
  fi
  if [ "${tool##*/}" = crinspect ]; then
    # shellcheck disable=SC2207
    COMPREPLY=($(compgen -W "$(sed -n '/^Commands:/,/^Options:/s/^  \([a-z]*\) .*/\1/p' <<<"$help")" -- "$word"))
  fi
  # shellcheck disable=SC2207
  COMPREPLY+=($(compgen -d -- "$word"))
}

complete -o filenames -F _checkpoint_restore crrun crckpt crrestore crinspect crtop crstore crstored
