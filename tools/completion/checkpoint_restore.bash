# SPDX-License-Identifier: MIT
#
# Completion for bash of crrun, crckpt, crrestore, crinspect and crtop. Options, their values and
# crinspect's commands are read from each program's --help, so that they are never out of date.

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

complete -o filenames -F _checkpoint_restore crrun crckpt crrestore crinspect crtop
