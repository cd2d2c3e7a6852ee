"""The 102 languages of FLEURS and what Whisper calls them."""
LANGUAGES = tuple("""
    af_za am_et ar_eg as_in ast_es az_az be_by bg_bg bn_in bs_ba ca_es ceb_ph ckb_iq cmn_hans_cn cs_cz cy_gb
    da_dk de_de el_gr en_us es_419 et_ee fa_ir ff_sn fi_fi fil_ph fr_fr ga_ie gl_es gu_in ha_ng he_il hi_in
    hr_hr hu_hu hy_am id_id ig_ng is_is it_it ja_jp jv_id ka_ge kam_ke kea_cv kk_kz km_kh kn_in ko_kr ky_kg
    lb_lu lg_ug ln_cd lo_la lt_lt luo_ke lv_lv mi_nz mk_mk ml_in mn_mn mr_in ms_my mt_mt my_mm nb_no ne_np
    nl_nl nso_za ny_mw oc_fr om_et or_in pa_in pl_pl ps_af pt_br ro_ro ru_ru sd_in sk_sk sl_si sn_zw so_so
    sr_rs sv_se sw_ke ta_in te_in tg_tj th_th tr_tr uk_ua umb_ao ur_pk uz_uz vi_vn wo_sn xh_za yo_ng
    yue_hant_hk zu_za
""".split())  # sorted: `lang_id` of the hub's version counts in this order
WHISPER = {"cmn_hans_cn": "zh", "fil_ph": "tl", "jv_id": "jw", "nb_no": "no"}  # where it is not FLEURS's own first part


def language_code(name: str) -> str:
    """`hi` of hi_in: Whisper's code where it has the language, else FLEURS's own, such as ast, ceb or umb."""
    return WHISPER.get(name, name.split("_")[0])
