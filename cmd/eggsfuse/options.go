package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// ignored are words of mount(8) and fstab(5) that say nothing to a mount: what mount(8)
// and systemd keep to themselves, and what EggsFS does anyway.
var ignored = map[string]bool{
	"rw": true, "defaults": true, "auto": true, "noauto": true, "user": true, "nouser": true, "users": true,
	"nousers": true, "owner": true, "group": true, "_netdev": true, "nofail": true, "exec": true,
	"nosuid": true, "nodev": true, "atime": true, "noatime": true, "diratime": true, "nodiratime": true,
	"relatime": true, "norelatime": true, "strictatime": true, "nostrictatime": true, "lazytime": true,
	"nolazytime": true, "sync": true, "async": true, "dirsync": true, "remount": true, "silent": true,
	"loud": true, "mand": true, "nomand": true, "iversion": true, "noiversion": true,
	"default_permissions": true, "nonempty": true, "big_writes": true, "": true,
}

// ignoredValues are the same with a value.
var ignoredValues = map[string]bool{
	"fsname": true, "subtype": true, "comment": true, "uhelper": true, "helper": true, "max_read": true,
}

// option applies one word of -o: one of mount(8), one of FUSE, or any long flag.
func (s *settings) option(f *pflag.FlagSet, word string) error {
	name, value, valued := strings.Cut(word, "=")
	switch {
	case ignored[word], ignoredValues[name], strings.HasPrefix(name, "x-"), strings.HasPrefix(name, "X-"):
		return nil
	}
	m := &s.mount
	switch word {
	case "ro":
		m.ReadOnly = true
	case "noexec":
		m.NoExec = true
	case "suid":
		m.Suid = true
	case "dev":
		m.Dev = true
	default:
		return s.flagOption(f, name, value, valued)
	}
	return nil
}

// flagOption sets the flag that an option names. FUSE's own names for time-outs are in seconds.
func (s *settings) flagOption(f *pflag.FlagSet, name, value string, valued bool) error {
	flag := strings.ReplaceAll(name, "_", "-")
	switch flag {
	case "entry-timeout", "attr-timeout":
		flag = "file-timeout"
	}
	if f.Lookup(flag) == nil || flag == "options" || flag == "help" || flag == "version" {
		return fmt.Errorf("-o %s: not an option of mount(8), nor a flag", name)
	}
	if strings.HasSuffix(flag, "timeout") {
		if _, err := strconv.ParseFloat(value, 64); err == nil {
			value += "s"
		}
	}
	if !valued {
		if f.Lookup(flag).Value.Type() != "bool" {
			return fmt.Errorf("-o %s: needs a value", name)
		}
		value = "true"
	}
	if err := f.Set(flag, value); err != nil {
		return fmt.Errorf("-o %s: %w", name, err)
	}
	return nil
}

// fromMount turns the words that mount(8) calls its helpers with into flags. fake: check
// nothing, mount nothing.
func fromMount(args []string) (out []string, fake bool) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '-' || a[1] == '-' {
			out = append(out, a)
			continue
		}
		for j, c := range a[1:] {
			switch c {
			case 'f':
				fake = true
			case 'r':
				out = append(out, "-o", "ro")
			case 's', 'n', 'v', 'w': // sloppy, no mtab, verbose, writable
			case 'o', 't', 'N':
				value := a[j+2:]
				if value == "" && i+1 < len(args) {
					i++
					value = args[i]
				}
				if c == 'o' {
					out = append(out, "-o", value)
				}
				goto next
			default:
				out = append(out, "-"+string(c))
			}
		}
	next:
	}
	return out, fake
}
