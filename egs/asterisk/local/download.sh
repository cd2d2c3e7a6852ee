#!/usr/bin/env bash
# The corpus and the model of this recipe; stage 1 runs it.
#   local/download.sh [folder, default downloads/asterisk] [--languages "en es fr it ru"] [--model true|false]
# Asterisk's core sounds (G.722) with their transcripts, about 11 MB a language, in the layout of Asterisk's tarballs. With
# apt-get (Debian, Ubuntu): the distribution's packages, unpacked without root. Otherwise Asterisk's own tarballs.
# What is complete is kept, so the same command goes on after an interruption; the folder has its name when all is there.
set -euo pipefail
languages="en es fr it ru"
folder=""
model=true
site=https://downloads.asterisk.org/pub/telephony/sounds

fail() { echo "download.sh: $1" >&2; exit "${2:-1}"; }

while [ $# -gt 0 ]; do
  case $1 in
    --languages | --model) [ $# -ge 2 ] || fail "$1 needs a value" 2; declare "${1#--}=$2"; shift 2 ;;
    --help | -h) sed -n '2,6s/^# *//p' "$0"; exit 0 ;;
    -*) fail "unexpected '$1'; usage: local/download.sh [folder] [--languages \"it en\"] [--model false]" 2 ;;
    *) [ -z "$folder" ] || fail "unexpected '$1' after the folder $folder" 2; folder=$1; shift ;;
  esac
done
for lang in $languages; do
  case $lang in en | es | fr | it | ru) ;; *) fail "no core sounds in '$lang'; there are en es fr it ru" 2 ;; esac
done
case $model in true | false) ;; *) fail "--model: expected true or false, found '$model'" 2 ;; esac
folder=${folder:-downloads/asterisk}
to=$folder
[ -e "$folder" ] || to=$folder.part

from_debian() { # language, folder to fill
  local lang=$1 unpacked=$2 name
  for name in "asterisk-core-sounds-$lang" "asterisk-core-sounds-$lang-g722"; do
    if ! compgen -G "$to/packages/${name}_*.deb" > /dev/null; then
      (cd "$to/packages" && apt-get download -q "$name" >&2) || return 1
    fi
    dpkg-deb -x "$to"/packages/"${name}"_*.deb "$unpacked/package" ||
      { rm -f "$to"/packages/"${name}"_*.deb; echo "download.sh: $name was damaged, run again" >&2; return 1; }
  done
  mv "$unpacked/package/usr/share/asterisk/sounds/$lang"_*/* "$unpacked"
  gzip -dc "$unpacked/package/usr/share/doc/asterisk-core-sounds-$lang/core-sounds-$lang.txt.gz" > "$unpacked/core-sounds-$lang.txt"
  cp "$unpacked/package/usr/share/doc/asterisk-core-sounds-$lang/copyright" "$unpacked/LICENSE"
  rm -r "$unpacked/package"
}

from_asterisk() { # language, folder to fill
  local name=asterisk-core-sounds-$1-g722-current.tar.gz
  curl --fail --silent --show-error --location --retry 3 -C - -o "$to/packages/$name" "$site/$name" || return 1
  tar -xzf "$to/packages/$name" -C "$2" || { rm -f "$to/packages/$name"; return 1; }
}

mkdir -p "$to/packages"
for lang in $languages; do
  if [ -f "$to/$lang/core-sounds-$lang.txt" ]; then continue; fi
  unpacked=$(mktemp -d "$to/.$lang.XXXXXX")
  chmod 755 "$unpacked"
  trap 'rm -rf "$unpacked"' EXIT
  if { command -v apt-get && command -v dpkg-deb; } > /dev/null && from_debian "$lang" "$unpacked"; then
    origin="Debian's packages"
  elif command -v curl > /dev/null && rm -rf "${unpacked:?}"/* && from_asterisk "$lang" "$unpacked"; then
    origin=$site
  else
    fail "cannot fetch $lang. On Debian or Ubuntu run 'apt-get update' and this again; elsewhere unpack \
asterisk-core-sounds-$lang-g722-current.tar.gz from $site into $to/$lang and run this again"
  fi
  [ -f "$unpacked/core-sounds-$lang.txt" ] || fail "$origin: no core-sounds-$lang.txt inside; another release than 1.6?"
  rm -rf "${to:?}/$lang"
  mv "$unpacked" "$to/$lang"
  echo "$folder/$lang: $(find "$to/$lang" -name '*.g722' | wc -l) prompts from $origin"
done
if [ "$model" = true ]; then "$(dirname "$0")/model.sh" "$(dirname "$folder")/models/whisper-base"; fi
[ "$to" = "$folder" ] || mv "$to" "$folder"
